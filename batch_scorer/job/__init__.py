"""The nightly run: started by a schedule or an event, by one process or by many."""
