import pytest
import yaml

from pipeline.errors import HaltPipeline
from pipeline.protocol import load_protocol, parse_protocol, shipped_protocols


def content():
    return load_protocol("brain-tumour-mr").model_dump(mode="json")


def refusal(changed):
    with pytest.raises(HaltPipeline) as refused:
        parse_protocol(yaml.safe_dump(changed), "mine.yaml")
    return str(refused.value)


def test_the_shipped_protocols_are_the_two_brain_tumour_ones_and_each_is_valid():
    assert shipped_protocols() == ("brain-tumour-mr", "brain-tumour-slice")
    assert load_protocol("brain-tumour-mr").network.dimensions == 3
    assert load_protocol("brain-tumour-slice").network.dimensions == 2


def test_a_protocol_cannot_be_changed_after_it_was_checked():
    protocol = load_protocol("brain-tumour-mr")

    with pytest.raises(ValueError, match="frozen"):
        protocol.limits.alpha = 0.5


def test_the_digest_changes_with_any_field_and_not_with_the_order_of_keys():
    changed = content()
    changed["limits"]["alpha"] = 0.11
    reordered = dict(reversed(content().items()))

    original = load_protocol("brain-tumour-mr").digest

    assert parse_protocol(yaml.safe_dump(changed), "a.yaml").digest != original
    assert parse_protocol(yaml.safe_dump(reordered, sort_keys=False), "a.yaml").digest == original


def test_an_error_names_file_field_value_and_cure():
    changed = content()
    changed["limits"]["alpha"] = 1.5

    assert refusal(changed).startswith("mine.yaml: limits.alpha = 1.5: ")
    assert "correct the value" in refusal(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("question"), "question = absent"),
        (lambda c: c.update(colour="blue"), "colour = 'blue'"),
        (lambda c: c["network"]["dropout"].update(rate=0.0), "network.dropout.rate = 0.0"),
        (lambda c: c["network"].update(members=1), "network.members = 1"),
        (lambda c: c["network"].update(passes=1), "network.passes = 1"),
        (lambda c: c["limits"].update(audit_share=0.0), "limits.audit_share = 0.0"),
        (lambda c: c["routes"].pop("REVIEW"), "REVIEW missing"),
        (lambda c: c["classes"][1].update(finding=False), "at least one class must be a finding"),
        (lambda c: c["classes"][1].update(name="no_tumour"), "share a name"),
        (lambda c: c["network"].update(dimensions=2), "set the first entry to 1"),
        (lambda c: c["series"].update(slices=[40, 4]), "swap them"),
        (lambda c: c["preprocessing"].update(intensity_percentiles=[60.0, 40.0]), "below the upper"),
        (lambda c: c["scope"].update(modality=[]), "scope.modality"),
        (lambda c: c["limits"].update(alpha=float("nan")), "limits.alpha"),
    ],
)
def test_a_protocol_that_would_mislead_is_refused_in_one_line(change, said):
    changed = content()
    change(changed)

    assert said in refusal(changed)
    assert "\n" not in refusal(changed)


def test_text_that_is_not_yaml_names_the_line():
    with pytest.raises(HaltPipeline, match=r"mine\.yaml: line 2 is not valid YAML"):
        parse_protocol("name: a\n  version: : 1", "mine.yaml")


def test_a_list_or_an_empty_file_is_refused():
    for text in ("", "- a\n- b"):
        with pytest.raises(HaltPipeline, match="holds no mapping"):
            parse_protocol(text, "mine.yaml")


def test_an_unknown_name_lists_the_shipped_protocols():
    with pytest.raises(HaltPipeline, match="brain-tumour-mr, brain-tumour-slice"):
        load_protocol("brain-tumor")


def test_a_protocol_file_that_is_absent_or_binary_is_one_line(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")

    for name in ("absent.yaml", "binary.yaml"):
        with pytest.raises(HaltPipeline, match="cannot be read"):
            load_protocol(str(tmp_path / name))
