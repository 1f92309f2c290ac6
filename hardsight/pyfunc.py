"""A saved predictor as an MLflow pyfunc model, logged as this file ("models from code"): no pickle.

Importing this module declares the model to mlflow, which is how mlflow loads it; nothing else imports it.
The type hints are the model's signature, so this module must not postpone their evaluation.
"""

import base64
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

from hardsight.errors import InputError
from hardsight.ingest import read_onnx
from hardsight.predictors.persist import load_saved


class Question(BaseModel):
    """A model to price: ``path`` of an ONNX file, or ``onnx``, its bytes in base64; one of the two."""

    path: str | None = None
    onnx: str | None = None
    device: str | None = None


class Interval(BaseModel):
    """One metric in its SI unit; without an interval its ends are missing."""

    metric: str
    value: float
    lower: float | None = None
    upper: float | None = None
    level: float


class Answer(BaseModel):
    """One model's costs."""

    digest: str
    device: str
    predictor: str
    predictions: list[Interval]
    assumptions: list[str]


class PricingModel(PythonModel):
    """Answers a list of questions with a list of the same length."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the predictor's folder; nothing in it is executed."""
        self._predictor = load_saved(Path(context.artifacts["predictor"]))
        self._device: str = context.model_config["device"]

    def predict(  # type: ignore[override]  # mlflow passes no context to a method with two parameters
        self, model_input: list[Question], params: dict[str, Any] | None = None
    ) -> list[Answer]:
        """Price each model.

        Raises:
            InputError: a question with neither or both of ``path`` and ``onnx``.
        """
        return [self._answer(question) for question in model_input]

    def _answer(self, question: Question) -> Answer:
        if (question.path is None) == (question.onnx is None):
            raise InputError("a question needs either 'path', an ONNX file, or 'onnx', its bytes in base64")
        graph = read_onnx(question.path or base64.b64decode(question.onnx or "", validate=True))
        answer = self._predictor.predict([graph], question.device or self._device).row(0)
        return Answer(
            digest=graph.digest,
            device=answer.device,
            predictor=answer.predictor,
            predictions=[Interval(metric=str(m), **e._asdict()) for m, e in answer.estimates.items()],
            assumptions=list(answer.assumptions),
        )


mlflow.models.set_model(PricingModel())
