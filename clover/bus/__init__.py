"""Messages and streams between the processes; everything about Redis lives here."""
