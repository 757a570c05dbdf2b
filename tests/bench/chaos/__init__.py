"""Five disturbances that suites of queues know, under ours and two that keep work in PostgreSQL."""
