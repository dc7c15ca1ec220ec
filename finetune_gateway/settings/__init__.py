"""Home folder, config, locks, and the day it is."""
