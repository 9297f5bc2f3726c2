"""Code that MLflow stores with a registered model, and runs when somebody loads it.

Imports nothing of ours, so that a server needs mlflow, numpy and torch alone.
"""

# mypy: disable-error-code="no-untyped-def"
# Without annotations: MLflow would read them as a schema, and warn whoever loads the model.

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedModel(PythonModel):
    """(B, C, H, W) uint8 images of any size -> the TorchScript predictor's outputs as numpy."""

    def load_context(self, context):
        """Load the TorchScript file among the artifacts."""
        self.model = torch.jit.load(context.artifacts["model"], map_location="cpu")

    def predict(self, context, model_input, params=None):
        """Outputs for a batch of images."""
        with torch.no_grad():
            return self.model(torch.from_numpy(model_input)).numpy()


set_model(ServedModel())
