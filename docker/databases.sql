-- Run once by the database's first start: one database per server.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
