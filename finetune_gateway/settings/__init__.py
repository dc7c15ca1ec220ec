"""Home folder, config, files, money, and today's date."""
