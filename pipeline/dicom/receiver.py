"""The DICOM node that takes studies in: Storage, Verification and Storage Commitment (PS3.4 annexes A, B, J).

Success is answered only after `accept` has returned, which is after bytes and row are durable. What `accept` cannot
take now is refused with 0xA700, so that the sender keeps it. What a peer may exhaust is bounded in `guarded_server`.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable
from io import BytesIO
from ipaddress import ip_address, ip_network
from typing import Any, Final, cast

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from pipeline.dicom.application_entity import IMPLEMENTATION_CLASS_UID, application_entity, server_tls, storage_contexts
from pipeline.dicom.commitments import CommitmentRequest, asked_for
from pipeline.dicom.guarded_server import GuardedServer, Limits
from pipeline.errors import HaltPipeline, RejectInstance, RetryLater
from pipeline.hospital import Peer, Reception

LOGGER = logging.getLogger(__name__)

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700  #: nothing was kept; the sender tries again
PROCESSING_FAILURE: Final = 0x0110
MISSING_ARGUMENT: Final = 0x0114


class ReceivedObject:
    """One C-STORE data set as the file it becomes: preamble, prefix, file meta information, data set (PS3.10)."""

    def __init__(self, event: evt.Event) -> None:
        request: Any = event.request
        meta = file_meta(
            str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)
        )
        self._head = BytesIO(b"\0" * 128 + b"DICM" + meta)
        self._body: BytesIO = request.DataSet
        self._body.seek(0)

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        return self._head.read(size) or self._body.read(size)


Accept = Callable[[ReceivedObject, str], None]
"""Takes one object of the peer of that AE title in; returns when it is durable. Raises RetryLater."""

NoteCommitment = Callable[[CommitmentRequest], None]
"""Keeps a request for storage commitment; returns when it is durable. Raises RetryLater."""


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """File meta information (PS3.10 7.1) of what a peer sent, with its UIDs as they are: judging them comes later."""
    elements = _meta_element(0x0001, b"OB", b"\0\1") + b"".join(
        _meta_element(element, b"UI", _even(value))
        for element, value in (
            (0x0002, sop_class_uid),
            (0x0003, sop_instance_uid),
            (0x0010, transfer_syntax_uid),
            (0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    return _meta_element(0x0000, b"UL", struct.pack("<L", len(elements))) + elements


def _meta_element(element: int, vr: bytes, value: bytes) -> bytes:
    long_form = vr == b"OB"
    head = struct.pack("<HH2s", 0x0002, element, vr)
    return head + (struct.pack("<HL", 0, len(value)) if long_form else struct.pack("<H", len(value))) + value


def _even(text: str) -> bytes:
    value = text.encode("ascii", "replace")
    return value + b"\0" * (len(value) % 2)


class Receiver:
    """Listens until it is closed; raises HaltPipeline where it cannot."""

    def __init__(self, reception: Reception, *, accept: Accept, note_commitment: NoteCommitment) -> None:
        self._reception, self._accept, self._note_commitment = reception, accept, note_commitment
        self._peers = {peer.ae_title: peer for peer in reception.peers}
        self._entity = self._make_entity()
        self._server = self._listen()
        self._loop = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="receiver", daemon=True)
        self._loop.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Let nobody in any more and end what is under way; what was not answered was not confirmed."""
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort()

    def _make_entity(self) -> AE:
        entity = application_entity(self._reception.ae_title, seconds=self._reception.idle_seconds)
        entity.acse_timeout = 2 * self._reception.pdu_seconds  # for the first word of a connection
        entity.require_called_aet = True
        entity.maximum_associations = 2 * self._reception.most_connections  # ours are counted where they connect
        return entity

    def _listen(self) -> GuardedServer:
        reception = self._reception
        limits = Limits(
            most_connections=reception.most_connections,
            most_per_address=reception.most_per_address,
            pdu_seconds=reception.pdu_seconds,
            most_waiting_bytes=reception.most_megabytes << 20,
        )
        try:
            server: Any = self._entity.make_server(
                (reception.bind, reception.port),
                contexts=[*storage_contexts(), build_context(Verification), build_context(StorageCommitmentPushModel)],
                ssl_context=None if reception.tls is None else server_tls(reception.tls),
                evt_handlers=self._handlers(),
                server_class=GuardedServer,
                limits=limits,
                allowed=self._is_known_address,
            )
        except OSError as error:
            raise HaltPipeline(
                f"cannot listen on {reception.bind}:{reception.port} ({type(error).__name__}: {error.strerror}); "
                "choose another port or mend the TLS files under 'reception'"
            ) from error
        self._entity._servers.append(server)  # noqa: SLF001 - its shutdown takes itself out of this list
        return cast(GuardedServer, server)

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._judge_peer),
            (evt.EVT_C_ECHO, lambda _event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
        ]

    def _is_known_address(self, address: str) -> bool:
        return any(_comes_from(peer, address) for peer in self._reception.peers)

    def _judge_peer(self, event: evt.Event) -> None:
        """Refuse an AE title that we do not know, or that calls from an address which is not its own."""
        association: Any = event.assoc
        title = association.requestor.primitive.calling_ae_title.strip()
        peer = self._peers.get(title)
        if peer is None or not _comes_from(peer, association.requestor.address):
            LOGGER.warning("an association was refused: unknown AE title or address")
            association.acse.send_reject(0x01, 0x01, 0x03)  # permanent, service user, calling AE not recognised
            association.is_rejected = True
            association.kill()  # waits until the refusal is sent

    def _store(self, event: evt.Event) -> int:
        try:
            self._accept(ReceivedObject(event), event.assoc.requestor.ae_title.strip())
        except RetryLater:
            return OUT_OF_RESOURCES
        except Exception:
            LOGGER.exception("an object could not be taken in")
            return PROCESSING_FAILURE
        finally:
            self._server.waiting.give_back(id(event.assoc))
        return SUCCESS

    def _commit(self, event: evt.Event) -> tuple[int, Dataset | None]:
        try:
            self._note_commitment(asked_for(event.action_information, event.assoc.requestor.ae_title.strip()))
        except RejectInstance:
            return MISSING_ARGUMENT, None
        except RetryLater:
            return 0x0213, None  # resource limitation
        except Exception:
            LOGGER.exception("a storage commitment could not be noted")
            return PROCESSING_FAILURE, None
        finally:
            self._server.waiting.give_back(id(event.assoc))
        return SUCCESS, None


def _comes_from(peer: Peer, address: str) -> bool:
    found = ip_address(address)
    return any(found in ip_network(allowed, strict=False) for allowed in peer.addresses)
