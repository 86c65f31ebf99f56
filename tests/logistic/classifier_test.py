from sklearn.utils import estimator_checks
import pytest
from adaopt.logistic.classifier import LargeStepClassifier
@pytest.mark.filterwarnings('ignore::sklearn.exceptions.ConvergenceWarning')
@estimator_checks.parametrize_with_checks([LargeStepClassifier()])
def test_sklearn(estimator, check):
  check(estimator)
