"""Decoding of trials whose images nobody knows: new recordings, any gallery, how sure an answer is, what is kept."""
