"""After a job: what was made from what, where the time went, and the names under which DVC keeps it."""
