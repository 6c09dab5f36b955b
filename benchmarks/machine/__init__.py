"""What the machine itself reaches, which the profile measures parts of the encoder against."""
