"""A second judge, written from the semantics alone: it shares no code with schedverify."""
