"""How large the parts of the house may be. `make architecture` prints where each stands."""

MODULES_IN_A_FOLDER = 9
LINES_IN_A_FILE = 300
LINES_IN_A_FUNCTION = 65
FILES_OF_AN_ENCODE = 18
FILES_OF_A_TRAINING_RUN = 45
