"""Where and how fast a recipe is computed: fixed jobs, workers that do one job each, runners that hand jobs out."""
