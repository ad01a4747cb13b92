"""What `ram-backend doctor` looks at, by where it is."""
