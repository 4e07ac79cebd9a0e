// Package identity computes who is who: the device key that orders a device's
// events, and the profile id under which a person's state lives.
//
// # Model
//
// Both are pure functions of what an event carries, so that every service
// computes the same answer without asking anybody. A profile id is a keyed hash
// of (shop, user id) when the user is known, else of (shop, device key). Nothing
// is written back: when a device becomes known, its events simply hash to the
// user's profile from then on.
//
// Ids are HMAC-SHA256, cut to 128 bits, in hexadecimal. Each kind has its own
// domain and every part its length in front, so that no two inputs of different
// kinds or splits can meet. Without the secret an id cannot be traced to a user
// id by trying candidates; whoever changes the secret changes every profile.
//
// # What it is not
//
// It does not judge ids (see the package commerce), keep which user a device
// belongs to, or merge profiles.
package identity
