"""A refusal that still says which study the bytes named and whether they claimed to be an image."""

from __future__ import annotations

from pipeline.domain.study import InstanceHeader
from pipeline.errors import RejectInstance


class RefusedInstance(RejectInstance):
    """RejectInstance with what could be read: a refused image leaves a gap in its study, a refused report does not.

    `header` is None unless a valid StudyInstanceUID was read; UIDs in it that were missing or invalid are "".
    """

    def __init__(
        self, reason: str, detail: str, *, header: InstanceHeader | None = None, is_image: bool = False
    ) -> None:
        super().__init__(reason, detail)
        self.header = header
        self.is_image = is_image
