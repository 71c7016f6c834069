"""Recipes for public data sets: what the user puts into a folder, and how its files are read."""

from preprocessing.datasets import avazu, criteo, movielens, zozo
from preprocessing.datasets.recipe import Log, Recipe, files_of_splits

__all__ = ["RECIPES", "Log", "Recipe"]

_ALL = (
    Recipe(
        name="frappe",
        title="context-aware usage of mobile apps, benchmark split Frappe_x1",
        how_to_get="put train.csv, valid.csv and test.csv of the BARS benchmark's Frappe_x1 (plain or .gz) in a folder",
        terms="research only, no redistribution",
        find=files_of_splits((
            "label", "user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city",
        )),
    ),
    Recipe(
        name="criteo",
        title="a week of display advertising, 45.8 million impressions; split 8:1:1 by a hash of the row",
        how_to_get="put train.txt of the Kaggle Display Advertising Challenge by Criteo (plain or .gz) in a folder",
        terms="non-commercial research",
        find=criteo.find,
    ),
    Recipe(
        name="avazu",
        title="ten days of mobile advertising, 40.4 million impressions; split by day",
        how_to_get="put train.gz of the Kaggle Click-Through Rate Prediction challenge by Avazu (or its train.csv) in a folder",
        terms="the challenge's rules",
        find=avazu.find,
    ),
    Recipe(
        name="movielens_1m",
        title="a million film ratings, click = 4 stars or more, with each user's earlier liked films; each user's ratings "
              "split 8:1:1 in their order",
        how_to_get="put ratings.dat, users.dat and movies.dat of GroupLens' ml-1m.zip in a folder (and beside them, if you have "
                   "them, vectors of the films in item_features.npz)",
        terms="research only, no redistribution",
        find=movielens.find,
    ),
    Recipe(
        name="zozo_obd",
        title="Open Bandit: a week of fashion recommendations in three campaigns; split by time",
        how_to_get="put the folders bts and random of ZOZO's Open Bandit Dataset (open_bandit_dataset.zip), or one of them, in a "
                   "folder",
        terms="CC BY 4.0",
        find=zozo.find,
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}
