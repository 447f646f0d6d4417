"""A self-hosted gateway that runs AI image jobs durably."""
