"""The workflow's own tables: what is due when, and when each step of a case happened."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text

from store.engine.schema import BinaryText, metadata

due_item = Table(
    "due_item",
    metadata,
    Column("kind", BinaryText, primary_key=True, comment="row of workflow.escalation.KINDS"),
    Column("subject", BinaryText, primary_key=True, comment="Type/id of what is watched"),
    Column("case_id", BinaryText, nullable=False, comment="logical id of its order; empty: of none"),
    Column("due", BigInteger, nullable=False, comment="µs since 1970"),
    Column("level", Integer, nullable=False, comment="of escalation that was reached; 0: none"),
    Column("next_at", BigInteger, nullable=True, comment="µs since 1970; null: nothing more is done"),
)
Index("ix_due_item_next_at", due_item.c.next_at)
Index("ix_due_item_subject", due_item.c.subject)
Index("ix_due_item_case_id", due_item.c.case_id)

milestone = Table(
    "milestone",
    metadata,
    Column("case_id", BinaryText, primary_key=True, comment="logical id of the order"),
    Column("round", Integer, primary_key=True, autoincrement=False, comment="from 1; one more if taken up again"),
    Column("name", BinaryText, primary_key=True, comment="T0 to T9, Tc"),
    Column("at", BigInteger, nullable=False, comment="µs since 1970"),
    Column("source", Text, nullable=False, comment="Type/id of what shows it"),
)
