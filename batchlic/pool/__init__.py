"""Workers, retries, circuit breaker, and bisection of refused batches."""
