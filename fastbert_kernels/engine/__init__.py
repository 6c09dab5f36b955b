"""The packed runtime: a loop over encoder layers on a batch without padding, from which samples leave."""
