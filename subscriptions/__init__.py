"""Reports out: topics, outbox, sequencer, dispatcher."""
