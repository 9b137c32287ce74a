"""Keys and values of one layer, and one query per row against them: the two layouts of the fast path.

`Slots` is the plain one, for any device: token after token, read by batched products. It is the
reference of the other.

`Pages` is the one for CPUs. torch has no kernel there that reads a cache at the speed of memory for one
query: scaled_dot_product_attention and batched products get a third to two thirds of it. But a weighted
sum of table rows, `embedding_bag`, does get it, in float32 and in bfloat16 alike, and both halves of
attention are such sums: an output is the sum of value rows weighted by probabilities, and the scores of
a page of tokens are the sum of that page's D key rows weighted by the query. Keys are therefore stored page by
page with tokens last, [D, S], a row of S tokens filling one cache line. The sums go through memory front to
back, which a row's own pages, megabytes apart, would not: sums per page, added up afterwards.

Both store a prefix once and share it among its completions: `Slots` whole; `Pages` by letting the rows'
lists of pages begin with the same ones, for as many pages as the prefix fills (the rest is copied).

Cost of a step: the bytes of the cache, once; index lists and queries, 4 bytes each per row of keys; and the
values' sums per page, written and read.

Shapes: B rows, P prefixes, C = B / P completions, H query heads, J key-value heads, G = H / J, D head
size, T tokens, L tokens a row can hold, S tokens in a page, N pages of a row that are in sight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CACHE_LINE = 64
"""Bytes of a key row within a page."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What all layers' caches of one batch have in common."""

    rows: int
    prefixes: int
    prefix_tokens: int
    length: int
    """Tokens a row can hold, prefix included."""
    heads: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def completions(self) -> int:
        """C."""
        return self.rows // self.prefixes

    @property
    def groups(self) -> int:
        """G."""
        return self.heads // self.kv_heads


def first_in_sight(position: int, window: int | None) -> int:
    """The first position that the query at `position` sees, when it sees `window` tokens."""
    return 0 if window is None else max(0, position + 1 - window)


class Slots:
    """A layer's keys and values token by token: own [B, J, L - t, D] and, with C > 1, prefix [P, J, t, D].

    Args:
        geometry: of the batch.
        window: tokens a query sees, itself included; None = all.
    """

    def __init__(self, geometry: Geometry, *, window: int | None) -> None:
        self.geometry, self.window = geometry, window
        g = geometry
        self.shared = g.prefix_tokens if g.completions > 1 else 0
        own = (g.rows, g.kv_heads, g.length - self.shared, g.head_size)
        prefix = (g.prefixes, g.kv_heads, self.shared, g.head_size)
        self.own_keys, self.own_values = (_zeros(own, g) for _ in range(2))
        self.prefix_keys, self.prefix_values = (_zeros(prefix, g) for _ in range(2))

    def prefill(self, key_PTJD: Tensor, value_PTJD: Tensor) -> None:
        """Start afresh with the prefixes' keys and values."""
        tokens = key_PTJD.shape[1]
        for own, prefix, new in (
            (self.own_keys, self.prefix_keys, key_PTJD),
            (self.own_values, self.prefix_values, value_PTJD),
        ):
            target = prefix if self.shared else own[:, :, :tokens]
            target.copy_(new.transpose(1, 2))

    def step(self, query_BHD: Tensor, key_BJD: Tensor, value_BJD: Tensor, position: int) -> Tensor:
        """Append the token at `position` and attend with its query, already scaled: [B, H, D]."""
        g = self.geometry
        slot = position - self.shared
        self.own_keys[:, :, slot] = key_BJD
        self.own_values[:, :, slot] = value_BJD
        first = first_in_sight(position, self.window)
        prefix = slice(min(first, self.shared), self.shared)
        own = slice(max(first - self.shared, 0), slot + 1)
        query = query_BHD.to(g.dtype).reshape(g.rows * g.kv_heads, g.groups, g.head_size)
        score = torch.bmm(query, self.own_keys[:, :, own].flatten(0, 1).transpose(1, 2))
        if prefix.start == prefix.stop:
            weight = torch.softmax(score, dim=-1)
            out = torch.bmm(weight, self.own_values[:, :, own].flatten(0, 1))
            return out.view(query_BHD.shape)
        return self._step_in_two_parts(query, score, prefix, own).view(query_BHD.shape)

    def _step_in_two_parts(
        self, query: Tensor, own_score: Tensor, prefix: slice, own: slice
    ) -> Tensor:
        """One softmax over the prefix, read once for its completions, and the row's own tokens."""
        keys, values = self.prefix_keys[:, :, prefix], self.prefix_values[:, :, prefix]
        score = torch.bmm(self._by_prefix(query), keys.flatten(0, 1).transpose(1, 2))
        weight = torch.softmax(torch.cat((self._by_row(score), own_score), dim=-1), dim=-1)
        split = keys.shape[2]
        out = torch.bmm(weight[..., split:], self.own_values[:, :, own].flatten(0, 1))
        shared = torch.bmm(self._by_prefix(weight[..., :split]), values.flatten(0, 1))
        return out + self._by_row(shared)

    def _by_prefix(self, x: Tensor) -> Tensor:
        """[B * J, G, n] -> [P * J, C * G, n]."""
        g = self.geometry
        x = x.view(g.prefixes, g.completions, g.kv_heads, g.groups, -1).transpose(1, 2)
        return x.reshape(g.prefixes * g.kv_heads, g.completions * g.groups, -1)

    def _by_row(self, x: Tensor) -> Tensor:
        """[P * J, C * G, n] -> [B * J, G, n]."""
        g = self.geometry
        x = x.view(g.prefixes, g.kv_heads, g.completions, g.groups, -1).transpose(1, 2)
        return x.reshape(g.rows * g.kv_heads, g.groups, -1)


@dataclass(frozen=True)
class _Lists:
    """Which table rows the bags of one step sum, for pages `first` to `last` (exclusive); bag = (page, row, head)."""

    first: int
    last: int
    key_rows: Tensor
    """int32 [N * B * H * D]."""
    key_bags: Tensor
    """Where each bag begins."""
    value_rows: Tensor
    """int32 [N * B * H * S]."""
    value_bags: Tensor


class PageMap:
    """Where the rows' pages lie: one for all layers of a batch.

    Of a prefix, `shared` full pages are stored once, [P, J, shared]; behind them all rows' own, [own, B, J]: the
    pages that a step writes lie together (a fourth of the time of writing them row by row).
    """

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.size = max(1, CACHE_LINE // g.dtype.itemsize)
        self.shared = g.prefix_tokens // self.size if g.completions > 1 else 0
        self.own = -(-g.length // self.size) - self.shared
        self.num_shared = g.prefixes * g.kv_heads * self.shared
        self.num_pages = self.num_shared + g.rows * g.kv_heads * self.own
        self._lists: dict[int | None, _Lists] = {}
        self._query = torch.empty(0, dtype=g.dtype, device=g.device)
        self.page_BJN = self._pages()

    def _pages(self) -> Tensor:
        g = self.geometry
        prefix = torch.arange(self.num_shared).view(g.prefixes, 1, g.kv_heads, self.shared)
        prefix = prefix.expand(g.prefixes, g.completions, g.kv_heads, self.shared)
        own = torch.arange(self.num_shared, self.num_pages).view(self.own, g.rows, g.kv_heads)
        return torch.cat((prefix.flatten(0, 1), own.permute(1, 2, 0)), dim=-1)

    def lists(self, position: int, window: int | None) -> _Lists:
        """What the query at `position` reads; made anew only where a page comes or goes."""
        first = first_in_sight(position, window) // self.size
        last = position // self.size + 1
        kept = self._lists.get(window)
        if kept is None or (kept.first, kept.last) != (first, last):
            kept = self._lists[window] = self._list(first, last)
        return kept

    def _list(self, first: int, last: int) -> _Lists:
        g = self.geometry
        page = self.page_BJN[:, :, None, first:last].expand(-1, -1, g.groups, -1)
        page = page.permute(3, 0, 1, 2).unsqueeze(-1)
        dtype = torch.int32 if self.num_pages * g.head_size < 2**31 else torch.int64
        key_rows = page * g.head_size + torch.arange(g.head_size)
        value_rows = page * self.size + torch.arange(self.size)
        bags = torch.arange((last - first) * g.rows * g.heads)
        return _Lists(
            first=first,
            last=last,
            key_rows=key_rows.flatten().to(dtype),
            key_bags=(bags * g.head_size).to(dtype),
            value_rows=value_rows.flatten().to(dtype),
            value_bags=(bags * self.size).to(dtype),
        )

    def repeated(self, query_BHD: Tensor, pages: int) -> Tensor:
        """The query once per page, [N * B * H * D] in the cache's dtype, in memory that is kept."""
        g = self.geometry
        shape = (pages, g.rows, g.heads, g.head_size)
        count = pages * g.rows * g.heads * g.head_size
        if len(self._query) < count:
            self._query = torch.empty(count, dtype=g.dtype)
        query = self._query[:count].view(shape)
        return query.copy_(query_BHD).view(-1)


class Pages:
    """A layer's keys and values in pages, for CPUs.

    Args:
        pages: where the rows' pages lie.
        window: tokens a query sees, itself included; None = all.
    """

    def __init__(self, pages: PageMap, *, window: int | None) -> None:
        g = pages.geometry
        self.pages, self.window = pages, window
        # Zeros: the empty end of a page is read, at weight zero, and must be a number.
        self.keys = _zeros((pages.num_pages, g.head_size, pages.size), g)
        self.values = _zeros((pages.num_pages, pages.size, g.head_size), g)

    def prefill(self, key_PTJD: Tensor, value_PTJD: Tensor) -> None:
        """Start afresh with the prefixes' keys and values."""
        size, shared = self.pages.size, self.pages.shared
        for page, (key, value) in enumerate(
            zip(torch.split(key_PTJD, size, 1), torch.split(value_PTJD, size, 1), strict=True)
        ):
            keys, values = self._prefix_page(self.keys, page), self._prefix_page(self.values, page)
            key_PJDT, value_PJTD = key.permute(0, 2, 3, 1), value.transpose(1, 2)
            if page >= shared:  # a copy for each completion
                key_PJDT, value_PJTD = key_PJDT.unsqueeze(1), value_PJTD.unsqueeze(1)
            keys[..., : key.shape[1]] = key_PJDT
            values[..., : key.shape[1], :] = value_PJTD

    def _prefix_page(self, table: Tensor, page: int) -> Tensor:
        """That page of all prefixes: [P, J, …] where it is stored once, [P, C, J, …] where not."""
        m, g = self.pages, self.pages.geometry
        if page < m.shared:
            shape = (g.prefixes, g.kv_heads, m.shared, *table.shape[1:])
            return table[: m.num_shared].view(shape)[:, :, page]
        shape = (m.own, g.prefixes, g.completions, g.kv_heads, *table.shape[1:])
        return table[m.num_shared :].view(shape)[page - m.shared]

    def step(self, query_BHD: Tensor, key_BJD: Tensor, value_BJD: Tensor, position: int) -> Tensor:
        """Append the token at `position` and attend with its query, already scaled: [B, H, D]."""
        self._append(key_BJD, value_BJD, position)
        g, size = self.pages.geometry, self.pages.size
        lists = self.pages.lists(position, self.window)
        count = lists.last - lists.first
        query = self.pages.repeated(query_BHD, count)
        score = _bags(self.keys.view(-1, size), lists.key_rows, lists.key_bags, query)
        score = score.view(count, -1, size).transpose(0, 1).reshape(-1, count * size)
        score[:, position + 1 - lists.first * size :] = -torch.inf
        if self.window is not None:
            score[:, : first_in_sight(position, self.window) - lists.first * size] = -torch.inf
        weight = functional.softmax(score, dim=-1).view(-1, count, size)
        weight = weight.transpose(0, 1).reshape(-1)
        parts = _bags(self.values.view(-1, g.head_size), lists.value_rows, lists.value_bags, weight)
        return parts.view(count, *query_BHD.shape).sum(dim=0, dtype=torch.float32)

    def _append(self, key_BJD: Tensor, value_BJD: Tensor, position: int) -> None:
        m, g = self.pages, self.pages.geometry
        page, slot = divmod(position, m.size)
        shape = (m.own, g.rows, g.kv_heads)
        keys = self.keys[m.num_shared :].view(*shape, g.head_size, m.size)
        values = self.values[m.num_shared :].view(*shape, m.size, g.head_size)
        keys[page - m.shared, ..., slot] = key_BJD
        values[page - m.shared, :, :, slot] = value_BJD


def _bags(table: Tensor, rows: Tensor, bags: Tensor, weight: Tensor) -> Tensor:
    """Sums of table rows, each times its weight: one sum per bag, front to back."""
    return torch.embedding_bag(table, rows, bags, False, 0, False, weight)[0]


def _zeros(shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    return torch.zeros(shape, dtype=geometry.dtype, device=geometry.device)
