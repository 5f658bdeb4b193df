"""Array functions shared by the world, the rewards and evaluation. Validity is data: no NaN, no -1 in a mean."""
