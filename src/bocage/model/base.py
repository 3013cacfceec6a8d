"""What all resources share: metadata, names, references, and words that are kept as type and parameters."""

from __future__ import annotations

import datetime
import enum
import secrets
import time
import uuid
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from bocage import words

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63),
    Field(description="An RFC 1123 label: lower-case letters, digits, hyphens inside.", examples=["web1"]),
]
Uid = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
    Field(examples=["5f0c9f1e-6f0a-4c53-9c1e-0d1f5a3f7c11"]),
]
Tag = Annotated[str, StringConstraints(pattern=r"^[\w.:/=-]{1,63}$")]
Line = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


WORDS: dict[str, Any] = {"words": True}
"""The context in which resources are dumped for people: `model_dump_json(context=WORDS)`."""


def new_uid() -> str:
    """A fresh identity (RFC 9562, version 4)."""
    return str(uuid.uuid4())


def timed_uid() -> str:
    """A fresh identity that sorts by its time (RFC 9562, version 7): for events and tasks.

    Its bits `rand_a` hold the fraction of the millisecond (section 6.2, method 3): what happens within one keeps its
    order.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    bits = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=bits))


def now() -> datetime.datetime:
    """The present time, UTC, to the microsecond."""
    return datetime.datetime.now(datetime.UTC)


class Part(BaseModel):
    """A value inside a resource: unknown fields are refused, nothing is changed in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Saying(Part):
    """A message as it is kept: its type and parameters. The sentence is made when it is shown.

    Dumped for people (the context WORDS), it has `text` and `hint` in the reader's language beside them.
    """

    type: str
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _forget_words(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: part for key, part in value.items() if key not in ("text", "hint")}
        return value

    @model_serializer(mode="wrap")
    def _with_words(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if info.context is WORDS:
            content |= {"text": self.text, "hint": self.hint}
        return content

    @classmethod
    def of(cls, message: words.Message) -> Saying:
        return cls(type=message.type, params=message.params)

    @property
    def message(self) -> words.Message:
        return words.revive(self.type, self.params)

    @property
    def text(self) -> str:
        return words.say(self.message)

    @property
    def hint(self) -> str:
        return words.advise(self.message)


class Ref(Part):
    """A resource by what never changes; `name` is what it was called at the time, for people."""

    kind: str
    uid: Uid
    project: Name | None = None
    name: str = ""


class Metadata(Part):
    uid: Uid = Field(default_factory=new_uid)
    name: Name
    project: Name | None = None
    """None for what stands outside projects: hosts and storage."""
    title: Line = ""
    notes: Annotated[str, StringConstraints(max_length=16_384)] = ""
    tags: Annotated[tuple[Tag, ...], Field(max_length=64)] = ()
    protected: bool = False
    """While it is set the resource cannot be deleted."""
    created: datetime.datetime = Field(default_factory=now)
    deleted: datetime.datetime | None = None
    """When it went to the trash."""
    goes: datetime.datetime | None = None
    """When it leaves the trash for good."""
    generation: int = 1
    """Raised by each change of the spec."""
    revision: int = 0
    """The store's revision of the spec: the ETag. Filled in on reading."""
    status_revision: int = 0
    """The store's revision of the status. Filled in on reading."""


class Severity(enum.StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


SpecT = TypeVar("SpecT", bound=Part)
StatusT = TypeVar("StatusT", bound=Part)


class Resource(Part, Generic[SpecT, StatusT]):
    """A `spec`, which people write, and a `status`, which only the actor in charge writes."""

    kind: ClassVar[str] = ""
    plural: ClassVar[str] = ""
    in_project: ClassVar[bool] = True
    named: ClassVar[bool] = True
    """Whether its name is unique and found through the name index."""
    kept_decoded: ClassVar[bool] = False
    """Whether it is large, and read over and over: then it is decoded once for each revision."""

    metadata: Metadata
    spec: SpecT
    status: StatusT

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def ref(self) -> Ref:
        return Ref(kind=self.kind, uid=self.uid, project=self.metadata.project, name=self.name)
