"""lragent.json: what training for sharing says about an adapter, checked against its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from lragent.adapters.errors import AdapterError
from lragent.adapters.peft_config import read_json_object

SIDECAR_FILE = "lragent.json"


class Sidecar(BaseModel):
    """Group and role of an adapter trained for sharing, and what it was trained for.

    Attributes:
        schema_: version of the file.
        group: name of the adapters trained together.
        role: the adapter's name among them.
        a_digest: for each shared projection, the digest that
            :func:`lragent.adapters.a_digests` gives.
        trained_for: the sharing policy that training computed as serving does.
        acting_tokens: ids of the tokens at which the adapter begins to act under ``neutral``; None
            for the prompt's last token, where prompts without them begin too.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    schema_: Literal[1] = Field(alias="schema")
    group: str
    role: str
    a_digest: dict[str, str]
    trained_for: Literal["neutral", "base+lr", "isolated"] | None = None
    acting_tokens: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = None


def read_sidecar(folder: Path, digests: Mapping[str, str]) -> Sidecar | None:
    """The sidecar of an adapter folder, or None where there is none.

    Args:
        folder: the adapter's folder.
        digests: digest of A for each projection, computed from the tensors in the folder.

    Raises:
        AdapterError: malformed, of another schema, or not about these tensors.
    """
    path = folder / SIDECAR_FILE
    if not path.is_file():
        return None
    try:
        sidecar = Sidecar.model_validate(read_json_object(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AdapterError(
            f"{path}: field {field}: {first['msg']}; upgrade lragent if a newer one wrote it, "
            "or remove the file to use the adapter as an ordinary one"
        ) from error
    for projection, stated in sidecar.a_digest.items():
        found = digests.get(projection)
        if found != stated:
            is_now = f"has {found[:12]}…" if found else "has no such projection"
            raise AdapterError(
                f"{path} states A digest {stated[:12]}… for {projection}, but the adapter "
                f"{is_now}: the weights changed after training; train again, or remove the file "
                "to use the adapter as an ordinary one"
            )
    return sidecar
