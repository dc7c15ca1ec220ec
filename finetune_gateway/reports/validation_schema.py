"""The JSON Schema of what ``ftg validate --json`` prints, as in docs/schemas/validate.json.

After changing a field, run
``python -m finetune_gateway.reports.validation_schema > docs/schemas/validate.json``. The names
and docstrings of the models are a part of the schema.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema

from finetune_gateway.findings import Report
from finetune_gateway.preparation.fix_report import Mended

TITLE = "What ftg validate --json prints"


class Said(BaseModel):
    """What one role says in all rows."""

    messages: int = Field(description="Its messages.")
    tokens: int = Field(description="Tokens of what they hold.")


class Tokens(BaseModel):
    """Tokens of the rows without an error, by OpenAI's documented rule or the model's template."""

    encoding: str = Field(description="The encoding, or the tokenizer of a local model.")
    exact: bool = Field(description="Whether that is the model's own; else it is near it.")
    total: int = Field(description="All tokens of a prompt by the documented rule.")
    trained: int = Field(description="Those the model learns to say.")
    min: int = Field(description="Of the shortest row.")
    median: int = Field(description="Half of the rows have as many or fewer.")
    p95: int = Field(description="95 % of the rows have as many or fewer.")
    max: int = Field(description="Of the longest row.")
    roles: dict[str, Said] = Field(description="By role.")
    histogram: list[tuple[int, int, int]] = Field(
        description="Lengths of rows: from, to (both included), how many rows."
    )


class SystemPrompts(BaseModel):
    """How uniform the system prompts are."""

    distinct: int | None = Field(description="Different ones; null: more than 1,000.")
    commonest_share: float = Field(
        default=0, description="Share of the commonest, of the rows that have one; from 0 to 1."
    )
    without: int = Field(description="Rows that have none.")


class Characters(BaseModel):
    """Characters of a row, without its system prompt."""

    min: int = Field(description="Of the shortest row.")
    median: int = Field(description="Half of the rows have as many or fewer.")
    p95: int = Field(description="95 % of the rows have as many or fewer.")
    p99: int = Field(description="99 % of the rows have as many or fewer.")
    max: int = Field(description="Of the longest row.")


class Leaks(BaseModel):
    """Rows that are in another file too."""

    exact: int = Field(description="Rows, or questions of six words and more, that are there.")
    near: int = Field(description="Rows that are nearly there; 0 without the extra [dedup].")


class Drift(BaseModel):
    """How far the data is from production prompts."""

    prompts: int = Field(description="Production prompts that were looked at.")
    without_neighbour: float = Field(
        description="Share of them that are like no prompt of the data; 0.1 would be expected."
    )
    near_from: float = Field(
        description="Share of words and pairs of words from which two prompts are near."
    )
    median_words: float = Field(description="Words of a production prompt.")
    own_median_words: float = Field(description="Words of a prompt of the data.")


class ToolCalls(BaseModel):
    """Calls of tools and their results."""

    calls: int = Field(description="Calls in all rows.")
    unanswered: int = Field(description="Those without a result, as at the end of a row.")
    results: int = Field(description="Messages of tools.")


class Quality(BaseModel):
    """The dataset as a whole. What was not looked for is left out or null."""

    rows: int = Field(description="Rows that could be read.")
    system_prompts: SystemPrompts = Field(description="How uniform the system prompts are.")
    classes: list[int] | None = Field(
        description="Rows of each short answer, where answers are given like classes."
    )
    characters: Characters | None = Field(description="How long rows are.")
    languages: dict[str, int] | None = Field(
        description="Answers of a sample by language (ISO 639-1); null: not looked at."
    )
    turns: dict[str, int] = Field(description="Messages by role; of a pair, those of its prompt.")
    last_turns: dict[str, int] = Field(description="Rows by the role of the last of them.")
    single_turn: int = Field(description="Rows with no answer before the one to learn.")
    tool_calls: ToolCalls = Field(description="Calls of tools and their results.")
    replacement_characters: int = Field(description="U+FFFD: characters lost in decoding.")
    similar_rows: int = Field(
        default=0, description="Rows that differ from an earlier one in a few words only."
    )
    leaks: dict[str, Leaks] = Field(
        default_factory=dict, description="With --against: shared rows by the name of the file."
    )
    drift: Drift | None = Field(default=None, description="With --like.")


class Wrong(BaseModel):
    """What stopped the command."""

    type: str = Field(description="The class of the error, such as NotFoundError.")
    message: str = Field(description="What is wrong.")
    hint: str = Field(description="What to do next; may be empty.")
    code: int = Field(description="The exit code.")


class Failure(BaseModel):
    """Printed in place of a report when there can be none, as for a file that is not there."""

    error: Wrong = Field(description="What stopped the command.")


def schema() -> dict[str, Any]:
    """Return the schema of a report, or of an error in its place.

    Unknown fields are allowed, because later versions may add some.
    """
    report = create_model(
        "Report",
        __base__=Report,
        __doc__="What was found in a dataset.",
        tokens=_optional(Tokens, Report.model_fields["tokens"].description),
        quality=_optional(Quality, Report.model_fields["quality"].description),
        fix=_optional(Mended, "With --fix: what was done; the report is then of the copy."),
    )
    either: Any = report | Failure
    document = TypeAdapter[Any](either).json_schema(mode="serialization")
    definition = document["$defs"]["Report"]
    definition["required"] = [name for name in definition["properties"] if name != "fix"]
    _remove_titles(document)
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": TITLE, **document}


def _optional(model: type[BaseModel], description: str | None) -> Any:
    return (Annotated[model | None, Field(description=description)], None)


def _remove_titles(node: Any) -> None:
    """Remove the titles, which only repeat the names of the fields."""
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict) and isinstance(inner.get("title"), str):
            del inner["title"]
        if isinstance(inner, dict | list):
            _remove_titles(inner)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
