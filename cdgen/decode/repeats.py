"""Which tokens would repeat an n-gram: kept up step by step, for all rows at once.

A token is banned when the row's last n - 1 tokens and it stand together somewhere in the row already, prefix
included (as in transformers' NoRepeatNGramLogitsProcessor; paper section 1). n = 1 bans every token of the row.

For every position the state holds how many tokens just before it agree with the row's last ones. One more token
x lengthens that by one where x stood before, and ends it elsewhere, so a step costs a few passes over [B, t],
exactly and without hashing, and no look at the device from the host.

Shapes: B rows, P prefixes, L tokens of a whole row, t tokens so far, V vocabulary entries.
"""

import torch
from torch import Tensor


class Repeats:
    """The memory of B rows of up to `length` tokens, used for batch after batch.

    Args:
        ngram: n, from 1.
        rows: B.
        length: L, prefix included.
        vocab: V.
        device: where tokens and masks live.
    """

    def __init__(
        self, ngram: int, *, rows: int, length: int, vocab: int, device: torch.device
    ) -> None:
        self.ngram, self.vocab, self.filled = ngram, vocab, 0
        self._ids_BL = torch.zeros((rows, length), dtype=torch.int64, device=device)
        self._agree_BL = torch.zeros((rows, length), dtype=torch.int32, device=device)
        # One column more than there are tokens: where positions that ban nothing write.
        self._banned_BW = torch.zeros((rows, vocab + 1), dtype=torch.bool, device=device)
        self._written_BT: Tensor | None = None

    def start(self, prefix_PT: Tensor) -> None:
        """Forget everything and take the prefixes, int64, each shared by B / P rows in a run."""
        self.filled = 0
        self._agree_BL.zero_()
        each = len(self._ids_BL) // len(prefix_PT)
        for token_P in prefix_PT.T:
            self.append(token_P.repeat_interleave(each))

    def append(self, token_B: Tensor) -> None:
        """One more token of every row."""
        t = self.filled
        again_BT = self._ids_BL[:, :t] == token_B.unsqueeze(1)
        longer_BT = (self._agree_BL[:, :t] + 1).mul_(again_BT)
        self._ids_BL[:, t] = token_B
        self._agree_BL[:, 1 : t + 1] = longer_BT
        self.filled = t + 1

    def banned(self) -> Tensor:
        """True for tokens that may not come next: bool [B, V], valid until the next call."""
        if self._written_BT is not None:
            self._banned_BW.scatter_(1, self._written_BT, False)
        t = self.filled
        repeat_BT = self._agree_BL[:, :t] >= self.ngram - 1
        self._written_BT = torch.where(repeat_BT, self._ids_BL[:, :t], self.vocab)
        self._banned_BW.scatter_(1, self._written_BT, True)
        return self._banned_BW[:, : self.vocab]
