"""The notation of keys, values and command lines: text to terms and back."""
