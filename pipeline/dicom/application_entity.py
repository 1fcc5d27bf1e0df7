"""Our application entity as pynetdicom wants it: quiet about what it carries, and open to every storage SOP class."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Final

from pydicom import config
from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, build_context
from pynetdicom.transport import AssociationSocket

from pipeline.dicom.parsing import COMPRESSED, NATIVE
from pipeline.hospital import Tls

_config.LOG_HANDLER_LEVEL = "none"  # its handlers write identifiers into the log
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False

config.settings.reading_validation_mode = config.IGNORE  # its warnings repeat values; `attributes` judges them


def _shut_and_close(connection: AssociationSocket) -> None:
    """The library leaves a socket open whose peer has gone: it closes only what it could shut down first."""
    found = connection.socket
    if found is not None:
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
        found.close()


AssociationSocket._shutdown_socket = _shut_and_close  # type: ignore[method-assign,assignment]  # noqa: SLF001

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.186462512364129158126243567934325713469")
IMPLEMENTATION_VERSION: Final = "SECONDREAD"
PDU_BYTES: Final = 1 << 16

#: What we take, in the order we like it: as it is stored, so that nobody has to transcode.
TRANSFER_SYNTAXES: Final = tuple(sorted(str(syntax) for syntax in COMPRESSED | NATIVE))


def application_entity(ae_title: str, *, seconds: float) -> AE:
    """An application entity with our name; `seconds` bound connecting, an answer and silence."""
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION
    entity.maximum_pdu_size = PDU_BYTES
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = seconds
    return entity


def storage_contexts() -> list[PresentationContext]:
    """Every storage SOP class in every transfer syntax that is read here; what is no image is kept and told apart."""
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts]
    return [build_context(found, list(TRANSFER_SYNTAXES)) for found in classes if found is not None]


def server_tls(tls: Tls) -> ssl.SSLContext:
    """TLS 1.2 and later in which the peer shows a certificate of our authority (PS3.15 B.9). Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _furnished(context, tls)


def client_tls(tls: Tls) -> ssl.SSLContext:
    """The same for connections that we open; the PACS is known by its certificate and host name. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _furnished(context, tls)


def _furnished(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.authority)
    return context
