// Moments of the lead's page and of the timeline in the reader's own time.

import { localise } from "/static/times.js";

localise(document);
