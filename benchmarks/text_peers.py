"""transformers' PyTorch model as encoder of texts, and as a router's first half: what people run today."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jrouter.encoders.encode import Encoder


class TorchEncoder:
    """transformers' model with its fast tokenizer: mean pooling, length 1, in inference mode.

    Texts go by length, longest first, in batches padded to their longest text.

    Args:
      folder: of the model.
      max_length: tokens of a text.
      bfloat16: weights and products in bfloat16.
    """

    def __init__(self, folder: Path, *, max_length: int, bfloat16: bool = False):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch, self._max_length = torch, max_length
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
        self._model = model.to(self.device, torch.bfloat16 if bfloat16 else torch.float32).eval()

    def pooled(self, texts: list[str]):
        """[n, d] tensor on the device, of one batch."""
        torch = self._torch
        made = self._tokenizer(
            texts, truncation=True, max_length=self._max_length, padding=True, return_tensors="pt"
        ).to(self.device)
        given = {name: made[name] for name in ("input_ids", "attention_mask")}
        hidden = self._model(**given).last_hidden_state.float()
        mask = made["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def encode(self, texts: list[str], *, batch: int | None = None, budget: int = 8192) -> np.ndarray:
        """[n, d] of all texts, in batches of so many rows, or of so many tokens."""
        torch = self._torch
        order = np.argsort([-len(text) for text in texts], kind="stable")
        found: np.ndarray | None = None
        with torch.inference_mode():
            start = 0
            while start < len(order):
                # About the length in tokens of the longest that is left: a word of these texts is five characters.
                width = min(len(texts[order[start]]) // 5 + 3, self._max_length)
                rows = order[start : start + (batch or max(budget // width, 1))]
                made = self.pooled([texts[row] for row in rows]).cpu().numpy()
                found = np.empty((len(texts), made.shape[1]), np.float32) if found is None else found
                found[rows] = made
                start += len(rows)
        assert found is not None
        return found


def torch_router(encoder: TorchEncoder, layers: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[list[str]], list]:
    """Texts -> indices of models: the encoder, then a router's network, both in PyTorch."""
    torch = encoder._torch
    weights = [tuple(torch.from_numpy(np.array(part)).to(encoder.device) for part in layer) for layer in layers]

    def decide(texts: list[str]) -> list:
        with torch.inference_mode():
            x = encoder.pooled(texts)
            for place, (kernel, bias) in enumerate(weights):
                x = x @ kernel + bias
                x = torch.relu(x) if place < len(weights) - 1 else x
            return x.argmax(-1).tolist()

    return decide


def tokens_of(encoder: Encoder, texts: list[str]) -> int:
    """Tokens that an encoder reads of texts, special ones included."""
    return int(encoder.kind.rows(texts).lengths.sum())
