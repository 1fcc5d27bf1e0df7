// One series: what the server says of it, and its images as they come in, those that are wanted first.
// Display values stay in the memory of this page; nothing is stored.

const BATCH = 4 * 2 ** 20; // bytes asked for at once
const AGAIN = 1500; // milliseconds before a failed request is made once more
const TRIES = 5; // of a request that is answered with "later"

class Broken extends Error {}

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

export async function fetched(url, signal, tries = TRIES) {
  const answer = await fetch(url, { credentials: "same-origin", signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Broken("The connection broke. What is here stays; scroll on to try again.");
  });
  if (answer.status === 503 && tries > 1) {
    await pause(1000 * Number(answer.headers.get("Retry-After") || 1));
    return fetched(url, signal, tries - 1);
  }
  if (answer.redirected) throw new Error("Your session has ended. Sign in again; a draft is kept in this tab.");
  if (answer.status === 404) throw new Error("These images cannot be shown any more. Open the case again.");
  if (!answer.ok) throw new Error("The images cannot be fetched now. Reload the page to try again.");
  return answer;
}

function slot() {
  const made = {};
  made.promise = new Promise((resolve, reject) => { made.resolve = resolve; made.reject = reject; });
  made.promise.catch(() => {});
  return made;
}

export class Series {
  static opened = 0;

  static async open(url) {
    const ended = new AbortController();
    const about = await (await fetched(url, ended.signal)).json();
    return new Series(url, about, ended);
  }

  constructor(url, about, ended) {
    this.key = String(Series.opened += 1);
    this.url = url;
    this.about = { planes: [], ...about };
    this.ended = ended;
    this.size = about.depth ? about.width * about.height : 0;
    this.images = new Array(about.depth);
    this.slots = Array.from({ length: about.depth }, slot);
    this.wanted = Math.floor(about.depth / 2);
    this.count = 0;
    this.filling = false;
    this.oncount = () => {};
  }

  get unit() {
    return /^CT/.test(this.about.modality) ? " HU" : "";
  }

  // Projections are measured where the detector is, not where the patient is.
  get length() {
    if (!this.about.pixel_mm) return "px";
    return /^(CR|DX|MG|RF|XA|PX|IO)$/.test(this.about.modality) ? "mm at the detector" : "mm";
  }

  // Promises of one image, and of all of them.
  image(k) {
    if (!this.images[k]) this.fill(k);
    return this.slots[k].promise;
  }

  whole() {
    this.fill(this.wanted);
    return Promise.all(this.slots.map((one) => one.promise));
  }

  // Fetch what is missing, the wanted image alone before all others; after a failure whoever asks again starts it again.
  async fill(wanted) {
    this.wanted = wanted;
    if (this.filling) return;
    this.filling = true;
    try {
      if (!this.images[wanted]) await this.take(wanted, wanted + 1, `${this.url}/slices/${wanted}/pixels`);
      while (this.count < this.about.depth) {
        const [from, to] = this.nearest();
        await this.take(from, to, `${this.url}/pixels?from=${from}&to=${to}`);
      }
    } catch (error) {
      const failed = this.slots.filter((_, k) => !this.images[k]);
      this.slots = this.slots.map((one, k) => (this.images[k] ? one : slot()));
      failed.forEach((one) => one.reject(error));
    }
    this.filling = false;
  }

  async take(from, to, url) {
    const bytes = await this.bytes(url);
    if (bytes.byteLength !== (to - from) * this.size * 2) throw new Error("The images came incomplete. Reload the page to try again.");
    for (let k = from; k < to; k += 1) {
      this.images[k] = new Uint16Array(bytes, (k - from) * this.size * 2, this.size);
      this.slots[k].resolve(this.images[k]);
    }
    this.count += to - from;
    this.oncount(this.count);
  }

  async bytes(url) {
    const once = async () => (await fetched(url, this.ended.signal)).arrayBuffer();
    try {
      return await once();
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      await pause(AGAIN);
      return once();
    }
  }

  // The run of missing images around the missing one that is nearest to the wanted one.
  nearest() {
    const { depth } = this.about;
    let at = -1;
    for (let away = 0; at < 0; away += 1) {
      at = [this.wanted + away, this.wanted - away].find((k) => k >= 0 && k < depth && !this.images[k]) ?? -1;
    }
    const most = Math.max(1, Math.floor(BATCH / (this.size * 2)));
    let [from, to] = [at, at + 1];
    for (let grew = true; grew && to - from < most;) {
      grew = false;
      if (to < depth && !this.images[to]) { to += 1; grew = true; }
      if (to - from < most && from > 0 && !this.images[from - 1]) { from -= 1; grew = true; }
    }
    return [from, to];
  }

  close() {
    this.ended.abort();
    this.oncount = () => {};
  }
}
