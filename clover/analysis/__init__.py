"""What a run did: folds of messages into figures."""
