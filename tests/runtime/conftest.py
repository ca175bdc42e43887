from tests.mixed_model import mixed, mixed_baselines, mixed_onnx

__all__ = ["mixed", "mixed_baselines", "mixed_onnx"]
