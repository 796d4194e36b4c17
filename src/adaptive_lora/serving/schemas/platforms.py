"""What managed platforms send: the bodies of our own endpoints, told apart by their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Discriminator, Field, Tag

from adaptive_lora.serving import limits
from adaptive_lora.serving.schemas.common import ErrorBody, Strict
from adaptive_lora.serving.schemas.generate import GenerateAnswer, GenerateBody, GenerateItem, GenerateOptions
from adaptive_lora.serving.schemas.openai import ChatBody, CompletionBody
from adaptive_lora.serving.schemas.openai_answers import ChatAnswer, CompletionAnswer


class InstancesBody(Strict):
    """Vertex AI's prediction request. Limits of /generate/batch."""

    instances: Annotated[list[GenerateItem], Field(min_length=1, max_length=limits.MAX_BATCH)]
    parameters: GenerateOptions | None = Field(
        None, description="for every instance, except where it says otherwise itself"
    )

    def items(self) -> list[GenerateItem]:
        """The instances, each with the parameters that it leaves open."""
        if self.parameters is None:
            return self.instances
        shared = {name: getattr(self.parameters, name) for name in self.parameters.model_fields_set}
        return [
            item.model_copy(update={k: v for k, v in shared.items() if k not in item.model_fields_set})
            for item in self.instances
        ]


class Predictions(BaseModel):
    predictions: list[GenerateAnswer | ErrorBody] = Field(description="in the order of the instances")


def _form(body: object) -> str:
    fields = body if isinstance(body, dict) else {}
    if "instances" in fields:
        return "[instances]"
    if "messages" in fields:
        return "[chat]"
    return "[completion]" if "model" in fields else "[generate]"


InvocationBody = Annotated[
    Annotated[ChatBody, Tag("[chat]")]
    | Annotated[CompletionBody, Tag("[completion]")]
    | Annotated[GenerateBody, Tag("[generate]")]
    | Annotated[InstancesBody, Tag("[instances]")],
    Discriminator(_form),
]
"""`messages` is a chat completion, `model` with a prompt a completion, `instances` is Vertex AI's, all else
is /generate's."""

InvocationAnswer = GenerateAnswer | ChatAnswer | CompletionAnswer | Predictions
