"""Publishing: a finished corpus becomes a repository on the Hugging Face Hub, or a folder somewhere else."""
