# ruff: noqa
# mypy: ignore-errors
"""The sketch's state: a dict per partition behind a batched changelog. The second half of the measured sketch."""

import time, logging
from collections import defaultdict
import faust
from faust.stores.base import Store as BaseStore
from faust.types import TP

from bench.sketch.sketch import ChunkSchema

log = logging.getLogger("chunkfaust")


# ---------------------------------------------------------------- stores
class MemStore(BaseStore):
    """dict per partition; dropped when the partition (or group membership) is lost."""

    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        self.parts = defaultdict(dict)
        self.data = {}

    def get(self, p, key):
        return self.parts[p].get(key)

    def put_chunk(self, p, changes):
        self.parts[p].update(changes)

    def confirm_chunk(self, tp, changes, last_offset): ...
    def apply_chunk(self, chunk):
        d = self.parts[chunk.tp.partition]
        for r in chunk.records:
            if r.value is None:
                d.pop(r.key, None)
            else:
                d[r.key] = r.value

    def persisted_offset(self, tp):
        return None

    def drop(self, p):
        self.parts.pop(p, None)

    def reset_state(self):
        self.parts.clear()

    async def on_rebalance(self, assigned, revoked, newly_assigned, generation_id=0):
        name = self.table.changelog_topic_name
        for tp in revoked:
            if tp.topic == name:
                self.drop(tp.partition)

    def count(self):
        return sum(map(len, self.parts.values()))

    def __getitem__(self, k):
        raise KeyError(k)

    def __setitem__(self, k, v):
        raise TypeError("use ChunkTable.put")

    def __delitem__(self, k):
        raise TypeError

    def __len__(self):
        return self.count()

    def __iter__(self):
        return iter(())

    def _clear(self): ...
    def apply_changelog_batch(self, batch, to_key, to_value):
        for ev in batch:
            self.app.consumer.admit_changelog(ev.message.value)
            self.apply_chunk(ev.message.value)

    async def backup_partition(self, *a, **k): ...
    def restore_backup(self, *a, **k): ...


class ChunkTable(faust.Table):
    store_class = MemStore
    fence = None  # callable raising/exiting if this process may be a zombie
    bg_tasks = ()

    def _new_store(self):
        return self.store_class(self._store or "memory://", self.app, self, table_name=self.name)

    def _new_changelog_topic(self, **kw):
        t = super()._new_changelog_topic(**kw)
        t.schema = ChunkSchema()
        return t

    def load(self, p, key):
        return self.data.get(p, key)

    def put_chunk(self, p, changes):
        self.data.put_chunk(p, changes)

    async def send_chunk(self, p, changes):
        """Put final values of one chunk on the changelog; returns list of (future, count)."""
        topic = self.changelog_topic_name
        prod = self.app.producer._ensure_producer()
        out = []
        b = prod.create_batch()
        ts = int(time.time() * 1000)
        append = b.append
        for k, v in changes.items():
            if append(timestamp=ts, key=k, value=v) is None:
                out.append((b, b.record_count()))
                b = prod.create_batch()
                append = b.append
                if append(timestamp=ts, key=k, value=v) is None:
                    raise RuntimeError("value larger than producer_max_batch_size")
        if b.record_count():
            out.append((b, b.record_count()))
        if self.fence:
            self.fence()
        futs = []
        for b, n in out:
            futs.append((await prod.send_batch(b, topic, partition=p), n))
        return futs

    async def barrier(self, p, changes, futs):
        last = None
        for fut, n in futs:
            md = await fut
            last = md.offset + n - 1
        if last is not None:
            tp = TP(self.changelog_topic_name, p)
            self.data.confirm_chunk(tp, changes, last)
            rec = self.app.tables.recovery
            if tp in rec.active_tps:
                rec.active_offsets[tp] = last  # next rebalance re-reads only foreign records
        return last

    def on_revoked(self, clean):
        if not clean:  # we may have been expelled: local state and offsets cannot be trusted
            rec = self.app.tables.recovery
            for p in set(self.data.parts) | set(getattr(self.data, "dbs", ())):
                self.data.drop(p)
                rec.active_offsets.pop(TP(self.changelog_topic_name, p), None)
            log.warning("state dropped: unclean revoke")
