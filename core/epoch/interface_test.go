package epoch

import "github.com/isthmus-chat/isthmus/core"

var _ Rooms = (*core.Engine)(nil)
