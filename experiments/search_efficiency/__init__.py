"""How many evaluations a search needs: samplers side by side on tables of every network's true outcome."""
