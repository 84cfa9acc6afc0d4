package store_test

import (
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/versioning"
)

const lockType = resources.RT_LOCK

var lockVersion = versioning.FromString(repository.LOCK_VERSION)
