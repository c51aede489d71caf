"""For your own tests: a contract suite for stores, and stores that are slow, faulty or watched."""
