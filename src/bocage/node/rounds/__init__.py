"""What is done from time to time, and once after a boot: measure, mend, raise alarms, forget."""
