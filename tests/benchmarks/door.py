"""`make bench-door`: how fast studies come in, as ratios against a bare receiver in the same run.

The baseline is pynetdicom's own server writing each object to a file, without fsync, ledger or a look inside; the sender,
the association and the objects are the same for all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import MRImageStorage

from pipeline.domain.interleaved import as_text, ratios
from tests.dicom_files import a_head, a_slice, to_bytes
from tests.door_house import door_house, open_door
from tests.orthanc import running_orthanc

_STUDIES = count(1)


def objects(number: int, size: int) -> list[Dataset]:
    """One fresh series of that many 16-bit slices of `size` by `size` pixels."""
    study, head = f"1.2.3.{next(_STUDIES)}", a_head(number, size)
    names = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"}
    return [
        dcmread(BytesIO(to_bytes(a_slice(head[i], i, SOPInstanceUID=f"{study}.1.{i + 1}", **names))))
        for i in range(number)
    ]


def send(port: int, title: str, datasets: list[Dataset]) -> None:
    """All on one association; a refusal ends the benchmark."""
    entity = AE(ae_title="SENDER")
    association = entity.associate("127.0.0.1", port, contexts=[build_context(MRImageStorage)], ae_title=title)
    for dataset in datasets:
        status = association.send_c_store(dataset)
        if status.Status != 0x0000:
            raise RuntimeError(f"refused with {status.Status:04X}")
    association.release()


@contextmanager
def bare_receiver(folder: Path) -> Iterator[int]:
    """The port of a server that does no more than write."""
    names = count()

    def handle(event: Any) -> int:
        (folder / f"{next(names)}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    entity = AE(ae_title="BARE")
    entity.add_supported_context(MRImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    yield server.server_address[1]
    server.shutdown()


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    with ExitStack() as opened:
        bare = opened.enter_context(bare_receiver(folder))
        house = opened.enter_context(door_house(folder / "house"))
        ours = opened.enter_context(open_door(house))
        orthanc = opened.enter_context(running_orthanc(folder / "orthanc"))

        def to(port: int, title: str) -> Any:
            return lambda: send(port, title, objects(asked.slices, asked.size))

        rows = ratios(
            ("a bare receiver", to(bare, "BARE")),
            [
                ("secondread: durable, inspected, in the ledger", to(ours.port, "SECONDREAD")),
                ("Orthanc, no fsync", to(orthanc.dicom_port, "ORTHANC")),
            ],
            asked.repetitions,
            {},
        )
    sys.stdout.write(as_text(rows))


if __name__ == "__main__":
    main()
