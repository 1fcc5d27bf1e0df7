"""The site's rules of its reading room, read from one YAML file."""

import pytest

from pipeline.errors import HaltPipeline
from pipeline.protocol import load_protocol
from pipeline.reading_room import load_reading_room

WHOLE = """
signing: password
viewer_link: "https://ohif.example/viewer?StudyInstanceUIDs={study}"
provider:
  issuer: https://login.example
  client_id: secondread
  roles: {radiology: reader, heads: lead}
  specialties: {neuro: neuroradiology}
notices:
  webhooks: [{name: chat, url: "https://chat.example/hook", secret: s3cret}]
  mail: {server: mail.example, sender: room@site.example, to: [lead@site.example]}
"""


def rules(tmp_path, text):
    path = tmp_path / "reading_room.yaml"
    path.write_text(text)
    return load_reading_room(path)


def test_without_a_file_the_defaults_hold(tmp_path):
    assert load_reading_room(tmp_path / "absent.yaml").signing == "session"


def test_a_whole_file_is_understood(tmp_path):
    read = rules(tmp_path, WHOLE)
    assert read.provider.roles["heads"] == "lead"
    assert read.notices.webhooks[0].secret.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("viewer_link: https://ohif.example/viewer", "lacks {study}"),
        ('viewer_link: "javascript:alert({study})"', "must begin with https"),
        ("signing: never", "signing"),
        ("surprise: 1", "surprise"),
        ("provider: {issuer: 'http://login.example', client_id: a, roles: {}}", "must be https"),
        ("notices: {webhooks: [{name: a, url: 'https://x.example'}, {name: a, url: 'https://y.example'}]}", "share"),
        ("[1, 2]", "the file"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, said):
    with pytest.raises(HaltPipeline, match=r"reading_room\.yaml") as refused:
        rules(tmp_path, text)
    assert said in str(refused.value)


def test_how_clinicians_read_is_no_part_of_what_is_certified():
    protocol = load_protocol("brain-tumour-mr")
    other = protocol.model_copy(update={"reading": type(protocol.reading)()})
    assert other.reading.digest != protocol.reading.digest
    assert other.digest == protocol.digest
    assert protocol.model_copy(update={"question": "?"}).digest != protocol.digest
