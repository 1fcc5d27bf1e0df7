"""Studies in, decisions out: everything but torch and Prefect."""
