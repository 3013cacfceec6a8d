"""The machines themselves: their power, through their BMCs."""
