"""A triage protocol: the clinical question and everything that follows from it, read from YAML and checked."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.domain.case import Route
from pipeline.errors import HaltPipeline

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Code(_Checked):
    """A coded concept: scheme designator, value and meaning (PS3.3 section 8)."""

    scheme: str
    value: str
    meaning: str


class FindingClass(_Checked):
    """One class the network tells apart, and whether it is the finding the protocol asks for."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    finding: bool
    urgency: Literal["high", "medium", "low"] = "medium"
    code: Code | None = None


class AgeRange(_Checked):
    """Ages in years, both ends included."""

    minimum: Annotated[float, Field(ge=0)] = 0.0
    maximum: Annotated[float, Field(le=150)] = 150.0


class Device(_Checked):
    """A scanner the protocol was made for; without `model`, every model of the manufacturer (compared in lower case)."""

    manufacturer: str
    model: str | None = None


class Scope(_Checked):
    """Where the protocol applies; an empty tuple or None asks nothing of that tag."""

    modality: Annotated[tuple[str, ...], Field(min_length=1)]
    body_part: tuple[str, ...] = ()
    age_years: AgeRange | None = None
    devices: tuple[Device, ...] = ()


class SeriesUse(StrEnum):
    """How many series of a study the network sees."""

    ONE = "one"  #: Exactly one: several candidates without a winner are ambiguous.
    ALL = "all"  #: Every candidate; their slices are aggregated to the study.


class SeriesRule(_Checked):
    """Which series of a study the protocol reads; the outcome is selected, none or ambiguous."""

    use: SeriesUse = SeriesUse.ONE
    slices: tuple[Count, Count] = (1, 4096)  #: fewest and most slices, both included
    orientation: Literal["axial", "coronal", "sagittal"] | None = None
    exclude_image_types: tuple[str, ...] = ("LOCALIZER", "DERIVED")
    description_any: tuple[str, ...] = ()  #: lower-case words, one of which SeriesDescription must hold
    prefer: Literal["most_slices"] | None = None  #: names the winner among several candidates


class Preprocessing(_Checked):
    """From volume to network input; spacing in mm and size in voxels along (d, h, w).

    For 2-D networks every slice is one part and the first entries are None and 1.
    """

    spacing_mm: tuple[Positive | None, Positive | None, Positive | None]
    size: tuple[Count, Count, Count]
    intensity_percentiles: tuple[Annotated[float, Field(ge=0, lt=100)], Annotated[float, Field(gt=0, le=100)]] = (
        1.0,
        99.5,
    )


class DropoutPlacement(StrEnum):
    """Where dropout acts in the network."""

    HEAD = "head"  #: Before the last linear layer only.
    LAST_STAGE = "last_stage"  #: Channel-wise in the last stage, and before the last linear layer.
    EVERY_BLOCK = "every_block"  #: Channel-wise after every block, and before the last linear layer.


class Dropout(_Checked):
    """Dropout rate and place; a rate of zero would make the uncertainty silently zero and is refused."""

    placement: DropoutPlacement
    rate: Share


class Sampling(StrEnum):
    """How often each member looks at a case."""

    OFF = "off"  #: Once and without dropout: the members' disagreement is all that is known of the uncertainty.
    FIXED = "fixed"  #: `passes` times.
    ADAPTIVE = "adaptive"  #: In rounds of one pass per member, until the route is settled or `passes` are used up.
    MOMENTS = "moments"  #: `passes` quasi-random points of the Gaussian with the moments of head dropout.


class Network(_Checked):
    """A MONAI classification network, how many members the ensemble has and how many passes each makes."""

    name: str
    dimensions: Literal[2, 3]
    arguments: dict[str, Any] = Field(default_factory=dict)
    dropout: Dropout
    members: Annotated[int, Field(ge=2, le=32)]
    passes: Annotated[int, Field(ge=2, le=1000)]  #: of each member; the budget where sampling is adaptive
    sampling: Sampling = Sampling.FIXED
    stopping_error: Share = 0.01  #: of stopping on the other side of a threshold than the budget's mean, clipped, lies


class Training(_Checked):
    """How a member is trained."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    patience: Count = 8  #: epochs without a lower tune NLL before stopping
    augment: bool = True
    balanced: bool = False  #: draw every class equally often; the class prior is undone after training


class Aggregate(StrEnum):
    """How several answers become one, within each member and pass."""

    MEAN = "mean"  #: Their mean probability.
    HIGHEST = "highest"  #: The one with the highest probability of any finding.


class Aggregation(_Checked):
    """How parts become the answer of their series, and series that of the study."""

    slices: Aggregate = Aggregate.MEAN  #: parts of one series; a 3-D network has one part per series
    series: Aggregate = Aggregate.MEAN


class Calibration(StrEnum):
    """Where the one temperature acts."""

    POOLED = "pooled"  #: On the pooled probabilities; the entropy parts are of the samples as they are.
    SHARED = "shared"  #: Inside every member and pass, fitted on the pool; the entropy parts are of calibrated samples.


class CertificationMethod(StrEnum):
    """How the threshold of a side is certified."""

    LADDER = "ladder"  #: Exact-binomial climbing ladder.
    ORDER_STATISTIC = "order_statistic"  #: An order statistic of the cases at risk; no tune split is asked.


class Stratum(StrEnum):
    """What splits studies into groups that are certified one by one; a study of an unknown group is REVIEW."""

    SITE = "site"  #: The institution.
    SCANNER = "scanner"  #: Manufacturer and model.
    SEX = "sex"  #: The patient's sex.
    AGE_BAND = "age_band"  #: Under 18, 18 to 64, 65 and older.


class Limits(_Checked):
    """What may go wrong how often; the two sides of the policy share `delta`."""

    alpha: Share  #: largest share of studies with the finding that may go to ROUTINE
    alpha_priority: Share  #: largest share of studies without the finding that may go to PRIORITY
    delta: Share  #: largest probability that the certificate is wrong
    audit_share: Annotated[float, Field(gt=0.0, le=1.0)]  #: share of ROUTINE cases read blind
    novelty_level: Share  #: share of familiar studies that may be called novel
    mutual_information_quantile: Annotated[float, Field(gt=0.5, le=1.0)] = 0.95  #: of the tune split
    certificate_days: Count = 365
    priority_share_of_delta: Share = 0.5  #: the rest is the routine side's
    method: CertificationMethod = CertificationMethod.LADDER
    strata: Stratum | None = None
    largest_prevalence: Share | None = None  #: of the finding, for which the false-omission rate is derived


class RouteRule(_Checked):
    """Who reads a route and how long a case may wait there, minutes."""

    specialty: str
    longest_wait_minutes: Count


class Question(_Checked):
    """One question of the read form beside the finding; `choices` empty means free text."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    label: Annotated[str, Field(min_length=1, max_length=80)]
    choices: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")], ...] = ()
    several: bool = False  #: more than one choice may be made
    required: bool = False
    only_for: tuple[str, ...] = ()  #: asked only with these classes (or cannot_be_read); empty: with every class


class SecondReads(_Checked):
    """Which reads are made twice, by two people who do not know of each other; a disagreement goes to an adjudicator."""

    share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  #: of all cases that are read, drawn by key
    findings: tuple[str, ...] = ()  #: classes, or cannot_be_read, whose first read always asks for a second
    least_certainty: Annotated[int, Field(ge=1, le=5)] = 1  #: a first read less certain than this asks for a second


class Reading(_Checked):
    """How clinicians read under the protocol; no part of what is certified, and so no part of the digest."""

    questions: Annotated[tuple[Question, ...], Field(max_length=12)] = ()
    second_reads: SecondReads = SecondReads()
    maps: bool = False  #: draw where the network's answer is sensitive, for readers who have seen the answer

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the form, hexadecimal; every read names the form it answered."""
        text = json.dumps(self.model_dump(mode="json", exclude={"maps"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class TriageProtocol(_Checked):
    """One checked, frozen triage protocol."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    version: Count
    question: str
    scope: Scope
    series: SeriesRule
    preprocessing: Preprocessing
    classes: Annotated[tuple[FindingClass, ...], Field(min_length=2)]
    network: Network
    aggregation: Aggregation = Aggregation()
    calibration: Calibration = Calibration.POOLED
    training: Training
    limits: Limits
    routes: dict[Route, RouteRule]
    reading: Reading = Reading()

    @model_validator(mode="after")
    def _is_consistent(self) -> TriageProtocol:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError("classes: two classes share a name; rename one")
        findings = sum(c.finding for c in self.classes)
        if findings in (0, len(names)):
            raise ValueError("classes: at least one class must be a finding and one not; set 'finding' so")
        missing = [r.value for r in Route if r not in self.routes]
        if missing:
            raise ValueError(f"routes: {', '.join(missing)} missing; give each a specialty and longest_wait_minutes")
        known = {*names, "cannot_be_read"}
        named = {*self.reading.second_reads.findings, *(n for q in self.reading.questions for n in q.only_for)}
        if unknown := sorted(named - known):
            raise ValueError(f"reading: '{unknown[0]}' is no class of this protocol; correct its spelling")
        if self.network.dimensions == 2 and self.preprocessing.size[0] != 1:
            raise ValueError("preprocessing.size: a 2-D network reads slices; set the first entry to 1")
        if self.network.sampling is Sampling.MOMENTS and self.network.dropout.placement is not DropoutPlacement.HEAD:
            raise ValueError(
                "network.sampling: moments are known for dropout before the last layer only; set placement"
            )
        if self.series.slices[0] > self.series.slices[1]:
            raise ValueError("series.slices: the fewest exceed the most; swap them")
        low, high = self.preprocessing.intensity_percentiles
        if low >= high:
            raise ValueError("preprocessing.intensity_percentiles: the lower must be below the upper")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the network's output order."""
        return tuple(c.name for c in self.classes)

    @property
    def finding_indices(self) -> tuple[int, ...]:
        """Places in the network's output that are findings."""
        return tuple(i for i, c in enumerate(self.classes) if c.finding)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all that is certified, hexadecimal: everything but `reading`."""
        text = json.dumps(self.model_dump(mode="json", exclude={"reading"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def shipped_protocols() -> tuple[str, ...]:
    """Names of the protocols that come with the package."""
    folder = files("pipeline").joinpath("protocols")
    return tuple(sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")))


def load_protocol(name_or_path: str) -> TriageProtocol:
    """The shipped protocol of that name, or the one in that YAML file.

    Raises HaltPipeline naming file, field, value and cure.
    """
    if name_or_path in shipped_protocols():
        return parse_protocol(
            files("pipeline").joinpath("protocols", f"{name_or_path}.yaml").read_text("utf-8"), f"{name_or_path}.yaml"
        )
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        raise HaltPipeline(
            f"no protocol named '{name_or_path}': use one of {', '.join(shipped_protocols())} or the path of a YAML file"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HaltPipeline(
            f"{path.name}: cannot be read ({type(error).__name__}); give the path of a YAML file"
        ) from error
    return parse_protocol(text, path.name)


def parse_protocol(text: str, source: str) -> TriageProtocol:
    """The protocol in YAML `text`; `source` names the file in errors. Raises HaltPipeline."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise HaltPipeline(f"{source}:{where} is not valid YAML; mend the indentation or quotes there") from error
    if not isinstance(content, dict):
        raise HaltPipeline(f"{source}: holds no mapping; start from a shipped protocol")
    try:
        return TriageProtocol.model_validate(content)
    except ValidationError as error:
        raise HaltPipeline(_first_problem(error, source)) from error


def _first_problem(error: ValidationError, source: str) -> str:
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "protocol"
    cures = {
        "missing": "add this field",
        "extra_forbidden": "remove it or correct its spelling",
    }
    cure = cures.get(problem["type"], "correct the value")
    value = repr(problem.get("input"))
    shown = "absent" if problem["type"] == "missing" else value[:80]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{source}: {field} = {shown}: {problem['msg']}; {cure}{more}"
