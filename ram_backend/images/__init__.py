"""Images: fetch them, check them, decode them."""
