"""What the tests of several folders share; what only one folder needs lies in that folder."""
