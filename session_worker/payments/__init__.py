"""What a completed session costs, collected: links, payments and refunds at a payment provider."""
